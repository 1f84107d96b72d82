"""The actions of the cockpit: each is a value with its code, its number and its doing."""
