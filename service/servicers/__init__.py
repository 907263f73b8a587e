"""What answers calls: one servicer a service of the protocol, each thin over the engine, the data or the jobs."""
