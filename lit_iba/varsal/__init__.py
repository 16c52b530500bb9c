"""VarSal: a posterior over saliency maps, and what its uncertainty is good for (Kim et al., submission to ICLR 2021)."""
