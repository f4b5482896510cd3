"""Training of what attacks need: robust feature extractors, heads that leak representations, decoders."""
