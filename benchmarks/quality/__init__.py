"""Stopping a search at a quality, without the truth: `traces` records searches, `stop` judges rules by them."""
