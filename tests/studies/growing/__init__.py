"""Does a policy learn when and where to grow a network on CIFAR-100? `make study-growing`.

Real services over gRPC: Simic learns, Tamiyo serves what was learned, Kasmina trains whole episodes
with two workers of one thread each. Four stages, of which each goes on where it was broken off:

- `train`: a policy learns for two hours of wall time. No two episodes are of one situation, and
  what it is paid is the final accuracy less that of the twin that only waits, less rent.
- `search`: the best fixed schedule, by the same reward, on other situations, with a stated budget.
- `compare`: all arms play the same fresh episodes: same situation, weights, images, order.
- `report`: tables, a JSON file and a picture.

`preset` has all sizes and says how they were chosen.
"""
