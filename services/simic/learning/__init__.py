"""The learner: trainings, rewards, networks, and how they change with a batch of episodes."""
