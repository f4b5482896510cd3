"""Where examples come from, one small file per kind."""
