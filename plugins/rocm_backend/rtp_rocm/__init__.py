"""AMD GPUs as a backend of rtp. Importing this imports no torch."""
