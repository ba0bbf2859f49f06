"""Parts that several commands of bench/ share."""
