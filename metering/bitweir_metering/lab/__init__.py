"""A link between two network namespaces of one Linux machine: real meters, real rules, one cable. Needs root."""
