"""Which expert-load balancer, on which rack, is worth what, under the router's real load?"""
