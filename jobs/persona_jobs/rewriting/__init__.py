"""From the teacher's answers to the persona's data set: cleaning, filters, splits."""
