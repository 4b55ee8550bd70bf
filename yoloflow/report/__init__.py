"""Output for people: plots and the page of a run, the live view, files of predictions and drawn images."""
