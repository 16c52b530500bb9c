"""Information at the input's own resolution (Zhang et al., "InputIBA", NeurIPS 2021)."""
