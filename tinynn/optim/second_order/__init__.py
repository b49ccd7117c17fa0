"""Methods of second order: what they see of the loss, and the steps that they take."""
