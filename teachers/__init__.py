"""The laboratory's teachers: small models that Sprig trained itself, and their tokenizer."""
