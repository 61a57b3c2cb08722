"""A page where a video answers while it is made, and the HTTP interface behind it.

==================  ==============================================================================
module              idea
==================  ==============================================================================
``options``         limits of the server
``asked``           what a visitor asks for, read strictly from JSON
``video``           one visitor's video: its state, and its files on disk
``line``            the line of videos, and the threads that make and write them
``export``          the same video as a request in JSON and as a command
``server``          HTTP: the page, and the interface that ``docs/demo.md`` describes
==================  ==============================================================================
"""
