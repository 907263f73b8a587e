"""The command line: one file a verb, each of which parses, calls one public function, and prints or writes."""
