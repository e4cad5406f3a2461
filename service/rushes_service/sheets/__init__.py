"""A run as something to keep or send: a contact sheet, a film of it, a folder of pages."""
