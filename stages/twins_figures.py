"""Tables of the study of TWINS, from metrics alone."""
