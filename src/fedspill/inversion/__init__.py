"""The parts that attacks are made of."""
