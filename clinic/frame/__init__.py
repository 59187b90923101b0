"""What a program of the clinic is made of. A program imports only this, torch and where its data come from."""

from clinic.frame.case import Case
from clinic.frame.program import Program, faulty, healthy, programs

__all__ = ["Case", "Program", "faulty", "healthy", "programs"]
