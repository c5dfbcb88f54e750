"""The bytes of BGP messages as rows. Read: rows, update (decode), attributes, nlri, encode.

Pure: bytes in, rows out, and nothing that a router sends raises. What is wrong with a message
stands in the row, with what RFC 7606 and RFC 9252 make of it. communities and service spell parts
of attributes; opening reads an OPEN. The encoder says what we want to have said; ExaBGP sends.
"""
