"""The same verbs over gRPC; an empty room until the service is built."""
