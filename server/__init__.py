"""The service: models behind gRPC.

From the outside in: `app` starts and stops the server, `classifier` turns the messages of
pyconv.v1.Classifier into calls, `inference` answers them without knowing a transport, and `models`
holds the networks. `status` is the one table from errors to status codes.
"""
