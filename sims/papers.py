"""The papers whose predictions are tested here: each takes what it is of them, gives a source.

>>> str(saxe2014("mode trajectories"))
'Saxe, McClelland & Ganguli (2014), arXiv:1312.6120, mode trajectories'
"""

from functools import partial

from sims.experiment import Source

saxe2014 = partial(
    Source,
    "Saxe, McClelland & Ganguli",
    2014,
    "Exact solutions to the nonlinear dynamics of learning in deep linear neural networks",
    "1312.6120",
)
advani2017 = partial(
    Source,
    "Advani & Saxe",
    2017,
    "High-dimensional dynamics of generalization error in neural networks",
    "1710.03667",
)
domine2024 = partial(
    Source,
    "Dominé, Anguita, Proca, Braun, Kunin, Mediano & Saxe",
    2024,
    "From Lazy to Rich: Exact Learning Dynamics in Deep Linear Networks",
    "2409.14623",
)
kleinman2023 = partial(
    Source,
    "Kleinman, Achille & Soatto",
    2023,
    "Critical Learning Periods Emerge Even in Deep Linear Networks",
    "2308.12221",
)
tian2021 = partial(
    Source,
    "Tian, Chen & Ganguli",
    2021,
    "Understanding self-supervised learning dynamics without contrastive pairs",
    "2102.06810",
)
liu2023 = partial(
    Source,
    "Liu, Baratin, Cornford, Mihalas, Shea-Brown & Lajoie",
    2023,
    "How connectivity structure shapes rich and lazy learning in neural circuits",
    "2310.08513",
)
atanasov2022 = partial(
    Source,
    "Atanasov, Bordelon & Pehlevan",
    2022,
    "Neural Networks as Kernel Learners: The Silent Alignment Effect",
    "2111.00034",
)
jacot2021 = partial(
    Source,
    "Jacot, Ged, Şimşek, Hongler & Gabriel",
    2021,
    "Saddle-to-Saddle Dynamics in Deep Linear Networks",
    "2106.15933",
)
