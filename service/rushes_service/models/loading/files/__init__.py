"""Single files as trainers' users have them: what is in them, and the modules of diffusers made from them."""
