"""Ordinary English words, which name an item only where something shows that a title is meant.

Without this, "an old film about war" would name the items called Old and War.
"""

from __future__ import annotations

__all__ = ["FUNCTION_WORDS", "KIND_WORDS", "ORDINARY_WORDS", "THINGS"]

_FUNCTIONS = """
    a about above after again against all almost along already also although always am among
    an and another any anybody anyone anything are around as at away back be because been
    before behind being below between beyond both but by can cannot could did do does doing
    done down each either else enough even ever every everybody everyone everything except
    few for from further get give go going gone got had has have having he hello help her
    here hers herself hey hi him himself his how however i if in instead into is it its
    itself just least less let like little lots many may maybe me might mine more most much
    must my myself neither never next no nobody none nor not nothing now of off often oh ok
    okay on once one only onto or other others our ours out over own perhaps please quite
    rather really s same she should since so some somebody someone something sometimes
    somewhere soon still such t than thank thanks that the their theirs them themselves then
    there these they this those though through till to together too toward towards under
    unless until up upon us very was we well were what whatever when where whether which
    while who whole whom whose why will with within without would yes yet you your yours
    yourself
"""

_QUALITIES = """
    absent accepted adult alive alone amateur american animated awake awesome awful bad
    basic beautiful beloved best better big black blue boring brave bright broken brown
    burning calm caught cheap classic clean clever clueless cold comic cool crazy creepy
    critical cruel cute dark dead deadly deep different difficult dirty distant domestic
    double driven dumb dutch early easy emotional english epic evil exciting exotic fair
    faithful fallen false familiar famous fantastic fast fat favorite favourite fearless
    feminine final fine first following foreign forgotten four free french fresh frozen full
    fun funny future general german gifted gigantic global golden good gothic grand gray
    great green grey half happy hard heavy hidden high hilarious holy home honest hot huge
    human immortal impossible incredible independent indian innocent inside intense
    interesting international invincible invisible italian japanese kind korean last late
    latest lawless left light lonely long loose lost loud low lucky mad magic magnificent
    main male married masculine mean medium mental mexican middle mighty missing modern
    moral moving musical mysterious naked narrow natural neat new nice noble normal
    notorious nuts odd old open ordinary original outside overnight pacific past perfect
    petty plain pleasant poor popular positive possessed possible premature pretty previous
    pure quick quiet random rare raw ready real recent reckless red restless rich right
    romantic rough round royal russian sad safe scary second secret senseless serious seven
    several sexy sharp short shy sick silent silly similar simple single slow small smart
    soft solid solo sorry spanish special speechless stolen strange strong stupid sudden
    suddenly super supernatural swedish sweet tall ten terrible third thirteen three
    thrilling tight tiny tired top total touching tough tragic trapped true twelve twenty
    two ugly unbelievable unbreakable undefeated underground unforgettable unforgiven unique
    unknown unusual upbeat vintage violent warm weak weird wet white wicked wide wild wise
    wonderful wrong yellow young zero
"""

_THINGS = """
    accident act action actor actors actress adaptation addiction admission adventure
    adventures africa age air airplane airport album alien aliens america amount angel anger
    animal animals animation anime answer apartment april arm army art article artist
    assassin assignment attack audience audition august aunt author autumn baby backup band
    bank baseball basketball bat battle beach bean bear beast beat beauty bed beginning bet
    bicycle bike biography bird birds birth birthday bit blood board boat body bomb book
    books boss bottle bounce bounty box boxing boy boys brain brand break breakdown
    breakfast brick bridge brother brothers building bullet burglar bus business butterfly
    cake call camp campaign canal candidate candy car cards career carnage cars cartoon case
    cash castle cat catch category cats cave celebration celebrity cell century chance
    change chaos chapter character characters charity chase chess chicago child childhood
    children china chocolate choice choices chorus christmas church cinema circle circus
    city class classics clock clothes cloud clown clowns club coast cocktail code coffee
    collection college color comedies comedy comfort commercial community company
    competition computer conspiracy contact content contest control conversation cooking cop
    cops copy core corner country couple courage court cousin cowboy crash creature
    creatures crew crime crisis critic cross crowd cruise crush culture cure cut dad damage
    dance dancer dancing danger date daughter day days deal death debt decade defense desert
    design desire destiny detective detour devil dialogue dinner dinosaur dinosaurs
    direction director disaster disease dish divorce doctor documentaries documentary dog
    dogs doll dollar door doors doubt dragon drama dramas dream dreams dress drink drive
    driver drug drugs duel dust eagle earth earthquake east eat edge education election
    elephant elf empire end ending endurance enemies enemy energy engineer entertainment
    envy epics episode error escape europe evening event everest evolution exam example
    exile experience expert explorer eye eyes face faces fact failure faith fall fame
    families family fan fans fantasy fashion father fault favor fear feature feeling
    feelings fiction field fight fighter film films finger fire firm fish flight floor
    flower flowers fly focus food football force forest format fountain fox frame france
    freedom friday friend friends friendship front fruit fury gambler game games gang garden
    gate genius genre genres ghost ghosts giant gift girl girls glass glory goal goat god
    gold golf government grace graduate grave gravity greed grief group guard guest guide
    guilt guitar gun guns guy guys habit hair halloween hand hands happiness harm hat hate
    hatred head health heart hearts heat heaven heist hell hero heroes heroine highway hills
    hip history hit hits hole holes holiday holidays hollywood home honey honor hook hope
    horror horse horses hospital host hostage hotel hour hours house houses human humor
    humour hunger hunt hunter hurricane husband ice idea ideas identity illness illusion
    image imagination india infection innocence insect instinct internet interview invasion
    island issue italy jacket jail january japan jazz job jobs joe john joke jokes journey
    joy judge juice july june jungle justice karate key kid kids kill killer killers killing
    king kingdom kiss kitchen knife knight knights knowing lab lady lake land language laugh
    laughs laughter law lawyer leader league legend legends length lesson letter letters
    liar lie lies life lights limit line lion lions list lives loner look loser loss lottery
    love lover lovers luck lunch machine magician maid mail man manager mark market marriage
    mars mask master match math maximum meal meat media memories memory men message metal
    middle milk million mind minute minutes miracle mirror mission mob model mom moment
    money monkey monster monsters month months mood moon morning mother motion motor
    mountain mountains mouse mouth move movie movies murder museum music musicals musician
    mysteries mystery mythology name names nation nature neighbors network news night
    nightmare nightmares nights noir noise north note novel novels nuclear number nurse
    object occasion ocean office oil opera opinion option orange order orphan outbreak owner
    pace package page pain paint pair panic paper paradise paranoia parents paris park part
    parts party passenger passion patient patriot peace pen people performance period person
    pets photo piano picnic picture pictures piece pieces pig pilot pirate pirates place
    places plague plan plane planes planet plastic platform play player players plays plenty
    plot poem poet poetry poison police politics pool pop portrait power prayer preference
    presence president price pride priest prince princess prison prisoner prisoners problem
    producer professor program promise proof propaganda proposal protest psychology punk
    puzzle quality quartet queen question questions race racing radio railway rain range rap
    rating ratings ray reader reality reason rebellion recommendation record relationship
    relationships release religion remake rescue resistance rest result return revenge
    review reviews revolution ring rings river road robot robots rock role romance romances
    rome room root rope rose royalty ruins rules runner sacrifice saint sale samurai
    saturday savages scandal scene scenes school science score scream screen sea season
    secrets selection self sequel sequels serial series setting sex shadow shame shark
    sharks ship shock shoes shop shopping show shower shows shrink siblings side siege sight
    sign signs silence silk singer singles sister sisters site size skin sky slang slave
    slavery sleep smell smile smoke snake snakes snow soap soccer society soldier soldiers
    son song songs sort soul sound soundtrack source south space speed spell spider spies
    spirit spirits splash sport sports spring spy stage stand star stars state station stay
    steam steel step stepfather stepmom stereotype stone store stories storm story stranger
    strangers stream street strength string structure student students studio stuff style
    subject subtitle suburbs subway success suicide suit summer sun sunday sunset sunshine
    surprise survival survivor suspense suspicion swimming sword symbol system table tale
    talent tales talk tank tap tape target taste taxi tea teacher team tear tears technology
    teenager teens teeth television temptation tennis terror terrorism test text theater
    theme themes theory therapy thief thing things thirst thoughts threads thriller
    thrillers thunder thursday tick ticket tiger time times title titles today tone tonight
    torture touch tour tourist tower town toy toys track trade tradition traffic tragedy
    trailer train training traitor transport trash travel treasure tree trees trial triangle
    tribe trick trip troll trouble truce truck trust truth tuesday tunnel turtle tv twilight
    twin twins twist twists type types uncle underwater unicorn uniform union universe
    university vacation valley values vampire vampires van verdict version veteran victim
    victory video view village villain violence virus visit visitor visitors voice voices
    volcano volume vow wait waiter waitress walk wall war warrior warriors wars watch water
    wave way weapon weather web wedding week weekend weight west western westerns whale
    wheel wife wind window winter wisdom wish witch witches witness wizard wizards wolf
    wolves woman women wonder wood woods word words work worker world worlds worst wrestling
    writer year years yesterday youth zombie zombies zone zoo
"""

_DEEDS = """
    add agree ask avoid based become begin behave believe blame blow bored born bought bound
    brought build buried buy came carry check choke choose claim clean climb close closer
    come compare consider continue cook cooked count cover create cry dare decide delete
    depends describe die died discover dislike drag draw drawn drop enjoy enjoyed enter
    excuse exist expect explain explore feel felt fighting filmed filter find finish
    finished flirting forget forgive forward found frighten gave goes grow guess happen
    happened hated hear heard hearing hide hold hop hurt ignore imagine include inspire
    interested join jump keep kept kicked kidnapped knew know known laid learn leave lend
    listen live lived locked looking lose loved made make making matter meet mention miss
    named need needed offer paid pass pick pitch played playing pledge post prefer prefers
    pull push put rank rate read recommend refer relax remember remind remove repeat replace
    reset restart run rush said save saved saw say says search searching see seeing seen
    sell send set shake share shine shoot shuffle shut sing sit skip sleeping smiling sneak
    speak speaking spend spending split start started stop stretch suggest suggests suppose
    surf surprised swap switch take taken taking talking tell think thought throw told took
    tried try turn understand use used vanish wake walking want wanted wants wash watched
    watcher watching wear went win wishing won wondering wrote
"""

_KINDS = """
    album albums book books film films game games movie movies novel novels picture pictures
    play plays series show shows song songs
"""

FUNCTION_WORDS = frozenset(_FUNCTIONS.split())
KIND_WORDS = frozenset(_KINDS.split())
THINGS = frozenset(_THINGS.split()) - KIND_WORDS
ORDINARY_WORDS = THINGS | KIND_WORDS | frozenset(_QUALITIES.split()) | frozenset(_DEEDS.split())
