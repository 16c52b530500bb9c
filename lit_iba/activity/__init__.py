"""Activity and bias attributions, zero-bias networks, and their survey (Grabska-Barwińska, "Measuring and improving ...")."""
