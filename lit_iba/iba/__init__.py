"""IBA: Schulz, Sixt, Tombari, Landgraf, "Restricting the Flow: Information Bottlenecks for Attribution" (ICLR 2020)."""
