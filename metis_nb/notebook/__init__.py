"""What pages need: the player, the training view, panels, plots, sources. The extra `notebook`."""
