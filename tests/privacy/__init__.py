"""What is accounted and bounded, against brute force."""
