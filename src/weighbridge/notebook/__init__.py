"""Runs in a notebook. docs/decisions/0040-a-notebook-is-sent-answers.md says how the numbers come there.

kernel (training)  <-- lines --  feed.py, a process of its own, reads the run's files
      |  show.py hands each line on, unread
      v
the browser: frontend/src/notebook.ts, and in a frame of its own the page
"""
