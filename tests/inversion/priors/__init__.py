"""Tests of priors on images."""
