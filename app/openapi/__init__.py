"""The contract as a document: load it, check the routes against it, serve it."""
