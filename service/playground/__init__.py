"""The playground: a small web page beside the gRPC server, for trying its models by hand on one's own machine."""
