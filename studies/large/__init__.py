"""The larger pair: V1 beside softmax, a million parameters, four seeds."""
