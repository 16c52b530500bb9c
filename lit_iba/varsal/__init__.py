"""VarSal: a posterior over saliency maps, and what its uncertainty is good for (submission to ICLR 2021)."""
