"""The public conformance suite, run on `tinynn.Namespace` and on the library underneath."""
