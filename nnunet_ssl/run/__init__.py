"""`nnssl_run`: every step of the method in order, each training in its own process; what is done is not done twice."""
