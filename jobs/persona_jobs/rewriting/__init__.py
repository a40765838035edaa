"""The persona's data set from the teacher's answers: requests, cleaning, filters, splits."""
