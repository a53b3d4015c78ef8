"""Whether a file, and a set of files that belong together, has been written to its end.

Structure is read, never content: a file that is whole here has the length, the directory and the
end that its format promises. Nothing is decided here about waiting; that is `capture.settle`'s.
"""
