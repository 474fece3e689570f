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
jacot2018 = partial(
    Source,
    "Jacot, Gabriel & Hongler",
    2018,
    "Neural Tangent Kernel: Convergence and Generalization in Neural Networks",
    "1806.07572",
)
chizat2019 = partial(
    Source,
    "Chizat, Oyallon & Bach",
    2019,
    "On Lazy Training in Differentiable Programming",
    "1812.07956",
)
lee2019 = partial(
    Source,
    "Lee, Xiao, Schoenholz, Bahri, Novak, Sohl-Dickstein & Pennington",
    2019,
    "Wide Neural Networks of Any Depth Evolve as Linear Models Under Gradient Descent",
    "1902.06720",
)
geiger2020 = partial(
    Source,
    "Geiger, Spigler, Jacot & Wyart",
    2020,
    "Disentangling feature and lazy training in deep neural networks",
    "1906.08034",
)
woodworth2020 = partial(
    Source,
    "Woodworth et al.",
    2020,
    "Kernel and Rich Regimes in Overparametrized Models",
    "2002.09277",
)
fort2020 = partial(
    Source,
    "Fort et al.",
    2020,
    "Deep learning versus kernel learning: an empirical study of loss landscape "
    "geometry and the time evolution of the Neural Tangent Kernel",
    "2010.15110",
)
roberts2022 = partial(
    Source,
    "Roberts, Yaida & Hanin",
    2022,
    "The Principles of Deep Learning Theory",
    "2106.10165",
)
paul2021 = partial(
    Source,
    "Paul, Ganguli & Dziugaite",
    2021,
    "Deep Learning on a Data Diet: Finding Important Examples Early in Training",
    "2107.07075",
)
tirer2023 = partial(
    Source,
    "Tirer, Huang & Niles-Weed",
    2023,
    "Perturbation Analysis of Neural Collapse",
    "2210.16658",
)
sarnthein2023 = partial(
    Source,
    "Sarnthein, Bachmann, Anagnostidis & Hofmann",
    2023,
    "Random Teachers are Good Teachers",
    "2302.12091",
)
alleman2024 = partial(
    Source,
    "Alleman, Lindsey & Fusi",
    2024,
    "Task structure and nonlinearity jointly determine learned representational geometry",
    "2401.13558",
)
deluca2025 = partial(
    Source,
    "Back de Luca, Giapitzakis & Fountoulakis",
    2025,
    "Exact Learning of Permutations for Nonzero Binary Inputs with Logarithmic "
    "Training Size and Quadratic Ensemble Complexity",
    "2502.16763",
)
