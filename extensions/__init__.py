"""Extensions live here; a real package so that their classes pickle and load in another process."""
