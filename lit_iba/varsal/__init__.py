"""VarSal: a posterior over saliency maps, and what its uncertainty is good for ("Variational saliency maps", submission to ICLR 2021)."""
