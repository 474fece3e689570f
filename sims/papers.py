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
lewkowycz2020 = partial(
    Source,
    "Lewkowycz, Bahri, Dyer, Sohl-Dickstein & Gur-Ari",
    2020,
    "The large learning rate phase of deep learning: the catapult mechanism",
    "2003.02218",
)
cohen2021 = partial(
    Source,
    "Cohen, Kaur, Li, Kolter & Talwalkar",
    2021,
    "Gradient Descent on Neural Networks Typically Occurs at the Edge of Stability",
    "2103.00065",
)
damian2022 = partial(
    Source,
    "Damian, Nichani & Lee",
    2022,
    "Self-Stabilization: The Implicit Bias of Gradient Descent at the Edge of Stability",
    "2209.15594",
)
wu2023 = partial(
    Source,
    "Wu & Su",
    2023,
    "The Implicit Regularization of Dynamical Stability in Stochastic Gradient Descent",
    "2305.17490",
)
mulayoff2024 = partial(
    Source,
    "Mulayoff & Michaeli",
    2024,
    "Exact Mean Square Linear Stability Analysis for SGD",
    "2306.07850",
)
wortsman2023 = partial(
    Source,
    "Wortsman et al.",
    2023,
    "Small-scale proxies for large-scale Transformer training instabilities",
    "2309.14322",
)
rosenfeld2023 = partial(
    Source,
    "Rosenfeld & Risteski",
    2023,
    "Outliers with Opposing Signals Have an Outsized Effect on Neural Network Optimization",
    "2311.04163",
)
wen2024 = partial(
    Source,
    "Wen, Li, Wang, Hall, Liang & Ma",
    2024,
    "Understanding Warmup-Stable-Decay Learning Rates: A River Valley Loss Landscape Perspective",
    "2410.05192",
)
cohen2024 = partial(
    Source,
    "Cohen, Damian, Talwalkar, Kolter & Lee",
    2024,
    "Understanding Optimization in Deep Learning with Central Flows",
    "2410.24206",
)
