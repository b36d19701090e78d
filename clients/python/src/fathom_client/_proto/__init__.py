"""Messages of fathom.v1.Inference, generated from proto/ when the package is built (see protos.py)."""
