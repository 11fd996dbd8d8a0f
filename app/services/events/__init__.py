"""What happened to a company: the journal, and the webhooks that tell it."""
