"""From labelled activations to rules: which features tell what is feared from what is not."""
