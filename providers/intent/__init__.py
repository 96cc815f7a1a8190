"""What a sentence asks for, without a language model."""
