"""Semi-supervised methods of others, short, in the student's own harness, so that a comparison differs in nothing but the method."""
