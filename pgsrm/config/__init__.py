"""From the words of a command to checked, named, frozen run folders.

`command_line` reads the words, `compose` makes configs of them, `schema` checks every key and value, `plan` checks what they
name and freezes the folder, `identity` says which run it is, `naming` what it is called. `messages` words the errors.
"""
