"""The network of a node: links and datagrams between the members of a cluster."""
