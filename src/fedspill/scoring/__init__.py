"""How close a reconstruction came; the only place, with audit, where the truth is opened."""
