"""Judge what the simulator claims: so far the planners, against each other and the bounds."""
